"""What a careful data scientist looks for in a data set first."""
