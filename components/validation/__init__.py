"""Refuses bad rows one by one and bad batches whole, and says where each fault is."""
