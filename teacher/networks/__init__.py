"""The networks a teacher or a student can be."""
