"""Words and pictures of what other rooms found; it computes nothing and runs nothing."""
