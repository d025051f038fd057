"""What a training step costs here and with the other libraries, in one run on one machine."""
