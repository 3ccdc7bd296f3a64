"""The sans-I/O core: values in, values out; no clock, no sockets, no files."""
