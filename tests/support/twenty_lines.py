import torch
from torch import nn

class_counts = [40, 20, 10, 5]


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(16, affine=False)
        self.gain, self.bias, self.end = nn.Embedding(4, 16), nn.Embedding(4, 16), nn.Linear(16, 6)

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.end(torch.relu(self.norm(self.start(z)) * (1 + self.gain(y)) + self.bias(y)))


generator, discriminator = Generator(), nn.Linear(6 + 4, 1)
g_optimizer = torch.optim.Adam(generator.parameters(), lr=0.05)
# the README's lines go here
for _ in range(40):
    labels = torch.randint(4, (32,))
    fake = generator(torch.randn(32, 8), labels)
    g_optimizer.zero_grad()
    discriminator(torch.cat([fake, torch.eye(4)[labels]], 1)).mean().backward()
    g_optimizer.step()
