"""One signed HTTP attempt to one outcome; never raises for a customer's fault."""
