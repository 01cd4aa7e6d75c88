"""Forecasting families."""
