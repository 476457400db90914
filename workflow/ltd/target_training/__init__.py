"""Training the embedded target model from scratch."""
