"""Tokenizers built from each network's own vocabulary (extra `text`)."""

from wlab.pretrained.text.byte_level import from_merges as from_merges
from wlab.pretrained.text.conversations import apply_chat_template as apply_chat_template
from wlab.pretrained.text.gguf import from_gguf as from_gguf
from wlab.pretrained.text.gguf_writing import to_gguf as to_gguf
from wlab.pretrained.text.hub import from_hub as from_hub
from wlab.pretrained.text.hub import save_hub as save_hub
from wlab.pretrained.text.hub import with_settings as with_settings
from wlab.pretrained.text.scored import from_llama2c as from_llama2c
from wlab.pretrained.text.tokenizer import Tokenizer as Tokenizer
