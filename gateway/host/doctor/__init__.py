"""``lentigo doctor``: looks at every part of an installation; see ``command``."""
