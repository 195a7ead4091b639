"""The recommenders: five networks trained here and two models of the library implicit, one file each, behind one base class."""
