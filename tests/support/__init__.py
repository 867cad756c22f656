"""What tests stand on: the real InfiniStore server, and worse ones."""
