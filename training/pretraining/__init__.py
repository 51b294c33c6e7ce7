"""Parts of the ``pretrain`` recipe: settings, image stream, processes, monitoring, its page."""
