"""One class for each model of the repository: what its ``model.py`` runs inside Triton."""
