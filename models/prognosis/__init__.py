"""Prognosis: survival estimators, the Cox model, one patient."""
