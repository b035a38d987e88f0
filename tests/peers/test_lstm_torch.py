"""An LSTM language model that PyTorch ran and saved; `make test-peers` installs it."""

import jax.numpy as jnp
import numpy as np
import torch

from wlab.pretrained import from_torch_lstm


class RNNModel(torch.nn.Module):
    """The word-level language model of PyTorch's examples, without its dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Embedding(11, 6)
        self.rnn = torch.nn.LSTM(6, 6, 2)
        self.decoder = torch.nn.Linear(6, 11)
        self.decoder.weight = self.encoder.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.rnn(self.encoder(tokens))[0])


def test_a_tied_model_saved_by_pytorch_gives_its_logits(tmp_path):
    torch.manual_seed(0)
    model, tokens = RNNModel(), torch.randint(0, 11, (3, 9))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    network = from_torch_lstm(tmp_path / "model.pt")
    found, _ = network.model.apply(network.params, jnp.asarray(tokens.numpy()))
    with torch.no_grad():
        wanted = model(tokens.T).transpose(0, 1).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        network.params["head"]["kernel"].T, network.params["embed"]["embedding"]
    )
