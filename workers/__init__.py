"""The path of one work item: fetch, prepare, infer, interpret, encode, deliver."""
