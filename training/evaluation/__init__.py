"""Evaluation of served models: cohorts, answers, figures and the page."""
