"""Engines that answer prompts, behind one small interface."""
