"""Engines that write profiles, behind one small interface."""
