// An operator's way from torch to its kernel: one kernel, two overloads (schemas.cpp), which differ
// in how the window comes.
#pragma once

#include <charconv>
#include <string>
#include <vector>

#include "tensor.h"

namespace poolkit {

// A window given as a list of integers.
struct ListedWindow : Window {
  explicit ListedWindow(const std::vector<int64_t>& fields)
      : Window(fields.data(), fields.size()) {}
};

// A window given as text: the same integers, with a space between them.
struct WrittenWindow : Window {
  struct Fields {
    int64_t values[kMostFields];
    size_t count = 0;  // 0 if the text is something else
  };

  explicit WrittenWindow(const Fields& fields) : Window(fields.values, fields.count) {}

  static Fields read(const char* text, size_t length) {
    Fields fields;
    const char *at = text, *const end = text + length;
    for (; at < end; ++at) {  // from the space to the next number
      if (fields.count == kMostFields) return {};
      int64_t& value = fields.values[fields.count++];
      const bool digit = '0' <= *at && *at <= '9';
      if (digit && (at + 1 == end || at[1] == ' ')) {  // most numbers are that short
        value = *at++ - '0';
      } else {
        const auto [rest, error] = std::from_chars(at, end, value);
        if (error != std::errc() || (rest != end && *rest != ' ')) return {};
        at = rest;
      }
    }
    return fields;
  }
};

// f for the dispatcher; W is ListedWindow or WrittenWindow.
template <auto f>
struct Operator;

template <class R, R (*f)(const Tensor&, const Window&)>
struct Operator<f> {
  template <class W>
  static R call(const Tensor& x, const W& window) {
    return f(x, window);
  }
};

template <class R, R (*f)(const Tensor&, const Tensor&, const Window&)>
struct Operator<f> {
  template <class W>
  static R call(const Tensor& x, const Tensor& offsets, const W& window) {
    return f(x, offsets, window);
  }
};

template <class R, R (*f)(const Tensor&, double, const Window&)>
struct Operator<f> {
  template <class W>
  static R call(const Tensor& x, double p, const W& window) {
    return f(x, p, window);
  }
};

template <class R, R (*f)(const Tensor&, const Tensor&, const Tensor&, double, const Window&)>
struct Operator<f> {
  template <class W>
  static R call(const Tensor& g, const Tensor& y, const Tensor& x, double p, const W& window) {
    return f(g, y, x, p, window);
  }
};

template <class R, R (*f)(const Tensor&, const std::vector<double>&, const Window&)>
struct Operator<f> {
  template <class W>
  static R call(const Tensor& x, const std::vector<double>& taps, const W& window) {
    return f(x, taps, window);
  }
};

template <class R, R (*f)(const Tensor&, const std::vector<double>&, const Window&, const Window&)>
struct Operator<f> {
  template <class W>
  static R call(const Tensor& x, const std::vector<double>& taps, const W& dense, const W& window) {
    return f(x, taps, dense, window);
  }
};

template <class R, R (*f)(const Tensor&, const Tensor&, const std::vector<double>&, const Window&,
                          const Window&)>
struct Operator<f> {
  template <class W>
  static R call(const Tensor& g, const Tensor& offsets, const std::vector<double>& taps,
                const W& dense, const W& window) {
    return f(g, offsets, taps, dense, window);
  }
};

template <auto f, class Library>
void implement(Library& m, const std::string& name) {
  m.impl(name.c_str(), TORCH_BOX(&Operator<f>::template call<ListedWindow>));
  m.impl((name + ".text").c_str(), TORCH_BOX(&Operator<f>::template call<WrittenWindow>));
}

}  // namespace poolkit

// How torch's boxing makes a window of an argument, which it hands over.
HIDDEN_NAMESPACE_BEGIN(torch, stable, detail)

template <>
struct ToImpl<poolkit::ListedWindow> {
  static poolkit::ListedWindow call(StableIValue value, uint64_t, bool) {
    return poolkit::ListedWindow(to<std::vector<int64_t>>(value));
  }
};

// (The conversion to std::string leaks the string in torch 2.13, and would copy it.)
template <>
struct ToImpl<poolkit::WrittenWindow> {
  static poolkit::WrittenWindow call(StableIValue value, uint64_t, bool) {
    const auto text = to<StringHandle>(value);
    const char* at = nullptr;
    size_t length = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(text, &length));
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(text, &at));
    const auto fields = poolkit::WrittenWindow::read(at, length);
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(text));
    return poolkit::WrittenWindow(fields);
  }
};

HIDDEN_NAMESPACE_END(torch, stable, detail)
