{# Control characters and direction overrides become spaces; other characters, emoji included, stay. #}
{% macro clean_text(column) -%}
  regexp_replace({{ column }}, '[\p{Cc}\x{2028}\x{2029}\x{202A}-\x{202E}\x{2066}-\x{2069}]', ' ', 'g')
{%- endmacro %}

{# Tags and tokens of chat templates become spaces, as in reclm.profiles.grammar.strip_markup. Of marks in brackets only
   the known ones do, since a film can be called [REC]. #}
{% macro without_markup(text) -%}
  regexp_replace(
    {{ text }},
    '<\|[^<>|]{0,64}\|>'
    '|<<?/?[A-Za-z_][\w-]{0,31}(?:\s[^<>]{0,200})?/?>>?'
    '|\[/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_[A-Z]+|CLS|SEP|PAD|UNK|MASK|BOS|EOS)\]',
    ' ',
    'g'
  )
{%- endmacro %}

{# A text from the log made safe for a prompt: one line, cut to `length`, without tags and tokens of chat templates
   (</s>, <|im_start|>, [INST], <<SYS>> …). The rest cannot form such a token, because angle brackets and [UPPER] marks
   are replaced. #}
{% macro prompt_text(column, length) -%}
  trim(left(
    regexp_replace(
      regexp_replace(
        translate({{ without_markup(clean_text('left(' ~ column ~ ', ' ~ (length * 4) ~ ')')) }}, '<>', '‹›'),
        '\[(/?[A-Z_]{2,})\]', '(\1)', 'g'
      ),
      '\s+', ' ', 'g'
    ),
    {{ length }}
  ))
{%- endmacro %}
