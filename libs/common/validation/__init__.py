"""What a request must be like before anything is stored or sent."""
