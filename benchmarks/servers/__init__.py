"""Servers that ours is compared with, each as its documentation has it written."""
