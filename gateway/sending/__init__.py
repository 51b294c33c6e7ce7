"""The command ``lentigo send``: pictures and files, wrapped where needed, to any storage SCP."""
