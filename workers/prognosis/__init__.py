"""Prognosis: what sites, structured reports and headers say about a patient, and which counts."""
