"""Plain models of the cache: obvious, block by block, slow. The core must do exactly the same."""
