"""The command line of export."""
