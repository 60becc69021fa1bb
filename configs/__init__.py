"""Run files to begin with and the models they name; `xpipe init` copies them."""
