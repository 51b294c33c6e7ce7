"""Torch on one thread: tiny networks gain nothing from more, and busy machines make them wait."""

import torch

torch.set_num_threads(1)
