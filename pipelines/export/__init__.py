"""A run's training set in the formats of the trainers people use, one file for each trainer."""
