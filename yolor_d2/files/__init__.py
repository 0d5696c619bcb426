"""What is read from and written to disks: images, values, files that appear whole."""
