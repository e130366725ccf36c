"""What `mmalign doctor` looks at: the environment, the machine, the checkout, the services and what earlier runs left behind."""
