"""The command `wlab`: one verb a file, each a thin layer over a room of the library."""
