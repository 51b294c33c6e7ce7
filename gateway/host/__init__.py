"""One host: which processes run, who watches them, and what is missing."""
