"""The recommenders: five networks, two models of the library implicit and three closed forms, behind one base class."""
