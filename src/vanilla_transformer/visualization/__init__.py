"""Plots of attention and of training curves."""
