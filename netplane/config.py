"""The node's configuration: KubeProxyConfiguration, flags, environment, with each value's origin."""
