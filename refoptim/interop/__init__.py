"""Fronts for other libraries; each is imported by its name and imports its library."""
