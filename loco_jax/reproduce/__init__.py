"""The experiments behind the poster's tables and questions, from training to figures."""
