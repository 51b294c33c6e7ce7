"""The fault matrix: what a gateway promises, while its parts are killed, full, slow or gone."""
