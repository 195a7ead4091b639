"""The recommenders: five networks trained here and two models of the library implicit, behind one base class."""
