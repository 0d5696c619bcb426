"""What a data set says: annotations and labels of any format, as checked arrays."""
