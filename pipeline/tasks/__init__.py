"""What is attributed: the Task contract and the built-in tasks."""
