"""What comes in: associations, who may call, and what becomes of each instance."""
