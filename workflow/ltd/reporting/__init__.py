"""Tables, figures and sentences of the report."""
