#include "example_prompts.h"

#include <stdlib.h>

#include "support.h"

const char *const example_prompts[] = {
    "A baker sells 12 loaves an hour for 7 hours and has 9 left. How many did she bake?",
    "What is 15 percent of 240?",
    "A train leaves at 9:40 and arrives at 13:05. How long is the journey?",
    "If three pens cost 4 euros, what do twelve pens cost?",
    "Write a Python function that reverses the words of a sentence.",
    "Find the bug in this loop: for i in range(len(a)): a.remove(a[i])",
    "How do I sort a list of tuples by the second item?",
    "Write a SQL query that counts the orders of each customer.",
    "Explain what a pointer is in C.",
    "You are a lighthouse keeper in 1850. Greet a sailor who knocks at night.",
    "Play a dragon that is tired of being feared and talk with me.",
    "Pretend to be a tour guide on Mars.",
    "Give me five ideas for a birthday party on a small budget.",
    "Rewrite this sentence so that it sounds more polite: Send me the file now.",
    "Summarise the advantages of working from home in three points.",
    "What should I pack for a week of hiking?",
    "Which is better for a beginner, the guitar or the piano?",
    "I can't sleep. What could I try?",
    "Do you think that machines can be creative?",
    "Hello! How are you today?",
    "I'd like to book a table for four on Friday evening.",
    "Can you find me a cheap flight to Lisbon next Monday?",
    "Please add milk and eggs to my shopping list.",
    "The rain had not stopped for a week when the stranger came to the inn.",
    "She closed the letter, looked at the fire, and said nothing for a long time.",
    "The detective bent over the footprints in the flower bed.",
    "KING. What news from the north? MESSENGER. My lord, the bridge is lost.",
    "Enter two soldiers, with torches.",
    "Once upon a time a little fox found a red balloon.",
    "Tom and his sister built a boat out of leaves.",
    "Tell me a bedtime story about a brave snail.",
    "The Danube is the second-longest river in Europe.",
    "Who was the first woman to win a Nobel Prize?",
    "The village lies at the foot of the mountains and has 2,300 inhabitants.",
    "What causes the seasons?",
    "How does a cell copy its DNA?",
    "Explain supply and demand with an example.",
    "Why does a spinning top not fall over?",
    "What do sociologists mean by a social norm?",
    "Does regular exercise lower blood pressure in older adults?",
    "We compared two treatments for migraine in 120 patients.",
    "What are the symptoms of an iron deficiency?",
    "Recipe for lentil soup: ingredients and steps.",
    "How do I take a stain of red wine out of a carpet?",
    "List the files of a folder by size on the command line.",
    "How long do I boil an egg so that the yolk stays soft?",
    "The parties agree that this licence ends upon a breach of its terms.",
    "May my landlord enter the flat without notice?",
    "The powers not delegated to the government are reserved to the people.",
    "Translate 'good morning' into Spanish and French.",
    NULL,
};

uint32_t example_prompts_count(void) { return sizeof example_prompts / sizeof example_prompts[0] - 1; }

ss_status example_prompts_route(ss_encoder *encoder, const float *centroids, uint32_t k, uint32_t *clusters,
                                double *distances, ss_error *err) {
  const uint32_t dim = ss_encoder_dim(encoder);
  float *x = take_memory(dim, sizeof *x);
  ss_status status = SS_OK;
  for (uint32_t i = 0; status == SS_OK && i < example_prompts_count(); i++) {
    status = ss_encode(encoder, text_of(example_prompts[i]), x, err);
    for (uint32_t c = 0; status == SS_OK && c < k; c++) {
      double sum = 0;
      for (uint32_t d = 0; d < dim; d++) {
        const double delta = (double)x[d] - (double)centroids[(size_t)c * dim + d];
        sum += delta * delta;
      }
      if (c == 0 || sum < distances[i]) distances[i] = sum, clusters[i] = c;
    }
  }
  free(x);
  return status;
}

ss_status example_prompts_nearest(ss_encoder *encoder, const float *centroids, uint32_t k, ss_text *examples,
                                  ss_error *err) {
  const uint32_t n = example_prompts_count();
  uint32_t *clusters = take_memory(n, sizeof *clusters);
  double *distances = take_memory(n, sizeof *distances), *best = take_memory(k, sizeof *best);
  const ss_status status = example_prompts_route(encoder, centroids, k, clusters, distances, err);
  for (uint32_t c = 0; c < k; c++) examples[c] = text_of("");
  for (uint32_t i = 0; status == SS_OK && i < n; i++) {
    const uint32_t c = clusters[i];
    if (examples[c].len && distances[i] >= best[c]) continue;
    examples[c] = text_of(example_prompts[i]);
    best[c] = distances[i];
  }
  free(clusters);
  free(distances);
  free(best);
  return status;
}
