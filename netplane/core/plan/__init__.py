"""What traffic should do on this node: a plan both modes compile, in the words of neither."""
