"""What downsampling costs a network, and where it hurts: :func:`audit` and its report."""
