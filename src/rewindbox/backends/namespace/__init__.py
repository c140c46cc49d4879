"""The namespace backend: a vm made of Linux namespaces, for any user, without a daemon."""
