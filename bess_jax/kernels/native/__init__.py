"""Sums over pairs on CPUs by C++ that is made for each formula and compiled by the user's compiler."""
