"""Devices and drivers."""
