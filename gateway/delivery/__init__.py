"""What goes out: where results go, how they are stored there, and what confirms them."""
