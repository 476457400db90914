"""The two policies: what they see, what they are paid, how they are trained and handed out."""
